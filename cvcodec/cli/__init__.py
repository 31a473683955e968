"""The command line: a thin skin of typer and rich over the library; torch is imported inside commands only."""
