"""How good and how fast a compressed model is: accuracy on its questions, agreement on inputs of the user, time."""
