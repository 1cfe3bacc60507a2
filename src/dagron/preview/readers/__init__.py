"""How objects of well-known libraries look in pickles. A module for each family of libraries, and none imports any.

A reader is a function that takes an `Object` and gives what shows it, or None if it looks otherwise than it should.
Whatever it raises is taken for None, as the bytes may hold anything: the object is shown as the call that it is.
"""
