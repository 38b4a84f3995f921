/* jinja_utf8.h - code points of a template's strings, with Python's idea of white space.
 *
 * Bytes that are not UTF-8 count as one U+FFFD each, so no input can break a walk. */
#ifndef ENGINE_JINJA_UTF8_H
#define ENGINE_JINJA_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Length in bytes (1 to 4) of the character at s; n > 0. */
size_t jinja_utf8_next(const char *s, size_t n, uint32_t *cp);
/* Length in bytes of the last character of s; n > 0. */
size_t jinja_utf8_last(const char *s, size_t n, uint32_t *cp);
size_t jinja_utf8_put(char out[4], uint32_t cp);
size_t jinja_utf8_count(const char *s, size_t n);

bool jinja_utf8_is_space(uint32_t cp);     /* str.isspace */
bool jinja_utf8_is_line_end(uint32_t cp);  /* str.splitlines */
bool jinja_utf8_is_printable(uint32_t cp); /* str.isprintable, unassigned code points aside */

/* Bytes of white space at the start and at the end of s. */
size_t jinja_utf8_space_first(const char *s, size_t n);
size_t jinja_utf8_space_last(const char *s, size_t n);

#endif
