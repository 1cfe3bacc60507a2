"""What a pickle holds, as text, without running any code that it names.

`machine` reads the operations of a pickle and makes inert values (`values`): nothing that the pickle names is imported,
called or hashed. `making` knows what Python and dagron name in pickles, `readers` what well-known libraries do;
`showing` makes a layout of the values, bounded whatever the bytes hold, and `layout` makes lines of it.
"""
