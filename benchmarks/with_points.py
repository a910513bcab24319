"""clew's training step on random tokens, of whatever size is asked for (scaling.py): a step for every turn."""

import cost
import pace
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from clew.batch import Batch, token_weights
from clew.data.chat import Encoded
from clew.data.collate import collate
from clew.learn.learner import Learner, Optimiser, Part
from clew.models.fresh import Vocabulary, learn_tokenizer
from clew.models.load import make_policy
from clew.models.policy import Policy
from clew.recipes.sft import objective

options = pace.options()
imported_mib = pace.resident_mib()


def policy() -> Policy:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=options["vocabulary"],
        hidden_size=options["width"],
        intermediate_size=options["width"] * 8 // 3,
        num_hidden_layers=options["layers"],
        num_attention_heads=options["width"] // 64,
        num_key_value_heads=options["width"] // 64,
        max_position_embeddings=options["length"],
        tie_word_embeddings=False,
    )
    return make_policy(LlamaForCausalLM(config), learn_tokenizer(["a b"], Vocabulary(size=300)))


def batch() -> Batch:
    """Prompts with their completions, each half of a row."""
    generator = torch.Generator().manual_seed(0)
    prompt, answer = options["length"] // 2, options["length"] - options["length"] // 2

    def tokens(num: int) -> list[int]:
        return torch.randint(options["vocabulary"], (num,), generator=generator).tolist()

    mask = [False] * prompt + [True] * answer
    items: list[list[Encoded]] = []
    for _ in range(options["prompts"]):
        asked = tokens(prompt)
        items.append([Encoded(asked + tokens(answer), mask, True) for _ in range(options["completions"])])
    rows = collate(items)
    return rows.with_weights(token=token_weights(rows.mask, "token"))


def main() -> None:
    turns, model, rows = pace.Turns(), policy(), batch()
    learner = Learner(model, Optimiser(max_tokens=1 << 30), total_steps=100)
    operations = 3 * cost.forward_operations(model, model.trunk, rows)
    tokens, _ = cost.sizes(rows)
    parameters = sum(p.numel() for p in model.parameters())
    pace.say(parameters=parameters, imported_mib=imported_mib, operations_counted=operations, tokens_counted=tokens)
    while turns.mine():
        metrics = learner.step(Part(rows, objective))
        turns.done(loss=metrics["loss/nll"])


if __name__ == "__main__":
    main()
