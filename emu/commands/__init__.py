"""The commands of the command line: each file parses its own flags, calls the library, and prints."""
