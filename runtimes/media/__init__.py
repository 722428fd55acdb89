"""Pictures, videos and sounds become the input of an encoder."""
