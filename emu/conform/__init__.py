"""Three judges of one interface: a model of the specification, the emulator, and real KVM where there is one."""
