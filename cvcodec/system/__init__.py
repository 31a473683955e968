"""What this machine has and how it shows text: devices, memory, threads, terminals."""
