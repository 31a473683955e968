"""`cvcodec train`: config, data, losses, trainer. Everything here is below the command line and above the model."""
