"""The same guest on the real /dev/kvm: what the emulator is judged by.

Read in this order: `ioctls` (the numbers), `system`, `vm` and `vcpu` (the three kinds of file that KVM hands out),
`runner` (a whole guest), `judge` (single operations, thousands a second). Importing this room loads nothing of them,
so it works everywhere; opening /dev/kvm says in one sentence where there is none.

In Linux: Documentation/virt/kvm/api.rst.
"""
