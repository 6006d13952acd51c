"""The commands, one module each: a typer-annotated function named like its module."""
