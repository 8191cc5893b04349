"""The subcommands, one file each: they hand on what is asked and print what comes back; work is done elsewhere."""
