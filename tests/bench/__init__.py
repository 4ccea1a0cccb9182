"""What a call costs through this proxy and through others, measured side by side: `make bench`."""
