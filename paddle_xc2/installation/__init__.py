"""What is installed, what it can do, and what is wrong with it: the work of `paddle-xc2 doctor`."""
