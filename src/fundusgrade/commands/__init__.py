"""The command line: words -> one or two calls of the library."""
