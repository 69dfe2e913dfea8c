"""Code that several test modules share: test modules import it from here, never from each other."""
