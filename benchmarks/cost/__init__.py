"""What a prior or a guide costs in training: time, memory, and the accuracy of cached gradients."""
