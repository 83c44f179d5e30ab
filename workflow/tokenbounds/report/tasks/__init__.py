"""Tables, figures and sections of the page for tasks of models of text."""
