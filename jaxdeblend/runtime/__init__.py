"""The machine: compiled programs, threads, memory, and arrays of the host or the device."""
