"""Where a guest's request meets its owner: MSR numbers, CPUID leaves, ports. Nobody home: the architectural answer."""
