"""What every pass uses: reading and extracting graphs, building nodes, finding attention, running on the CPU."""
