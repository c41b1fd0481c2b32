"""What every bench needs: options, child processes, records, the machine."""
