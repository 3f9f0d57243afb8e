// Nothing but a place to hang the precompiled headers on (cmake/mayfly.cmake).
