"""One module per command of `fpc-deploy`; each imports what it needs when it is called."""
