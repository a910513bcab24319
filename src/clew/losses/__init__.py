"""The mathematics: pure functions of tensors, unreduced. Averaging is data (`Batch.weights`), never done here."""
