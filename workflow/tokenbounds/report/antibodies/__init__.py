"""Tables, figures and the page's section on antibodies."""
