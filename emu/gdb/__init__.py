"""The remote protocol of gdb, on a history: so that gdb can step a guest, also backwards."""
