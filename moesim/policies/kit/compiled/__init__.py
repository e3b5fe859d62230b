"""What the kit compiles: functions on flat buffers and numbers, beside the modules that call them."""
