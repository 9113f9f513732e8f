"""What the command residual-theory can do: a function for each of its commands."""
