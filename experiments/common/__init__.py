"""What all packages use: errors, console, devices, the process."""
