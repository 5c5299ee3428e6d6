"""Progress bars, tables, figures and the HTML report of a sweep, all read from its store."""
