"""The devices: pure state machines. They know no vCPU, machine or scheduler; time and memory are handed to them."""
