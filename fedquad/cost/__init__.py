"""What a step costs: bytes kept for backward, FLOPs, bytes sent, measured seconds."""
