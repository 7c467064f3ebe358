"""The host's scheduler in virtual time: pCPUs, tasks, policies, run delay. It has never heard of steal time."""
