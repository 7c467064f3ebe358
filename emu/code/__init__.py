"""What stands in a program: symbols and disassembly. The only room that imports capstone."""
