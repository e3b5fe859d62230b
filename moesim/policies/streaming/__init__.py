"""Systems that stream whole layers through the GPU, batch after batch."""
