"""The command line: arguments and options -> one or two calls of the library."""
