"""The command line; see `controlplane --help`."""
