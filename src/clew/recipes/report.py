"""The report of a pipeline's runs, as its last stage."""

from pathlib import Path

from clew.config import Config
from clew.evaluate.report import write_report
from clew.runs import Run
from clew.track import Console


class Report(Config):
    out: str
    runs: str
    """Directory whose runs are reported on."""


def run(config: Report) -> None:
    with Run(config, config.out, "report", [Console()]) as run:
        if run.is_finished:
            return
        file = write_report(Path(config.runs), Path(config.out) / "report.html")
        run.note(f"report: {file}")
        run.finish()
