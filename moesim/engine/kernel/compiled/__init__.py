"""What is compiled: functions on two flat buffers of numbers, complete in themselves."""
