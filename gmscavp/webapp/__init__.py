"""The browser page: search a library, give a video a sound, look at what a model hears. python -m gmscavp.webapp --help

Needs the extra gmscavp[web]. Nothing here is imported by the rest of the package.
"""
