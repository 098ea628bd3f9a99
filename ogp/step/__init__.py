"""One optimizer step: the gradients it takes, how an engine obtains them, what the method makes of them."""
