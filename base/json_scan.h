/* json_scan.h - is this text JSON, in UTF-8, and small enough to parse?
 *
 * cJSON is lenient (it takes duplicate keys, text after the document, NUL, bad
 * UTF-8, numbers like 01 and 1e999) and needs up to 40 bytes of heap for one byte
 * of input.  So nothing reaches it before this scan has read the whole text once,
 * without recursion and without allocation, and has refused whatever RFC 8259
 * refuses, and more: duplicate keys in one object (compared after unescaping),
 * \u0000, lone surrogates, numbers that do not fit a double.
 *
 * The message names the byte offset and the limit that was passed.
 *
 * An object with more keys than fit its fixed table (4096 in all that are open) is refused;
 * with `large_objects` it is taken, and keys beyond the table are not compared: for files
 * whose reader looks for duplicates itself.
 *
 * Thread: any; no state. */
#ifndef BASE_JSON_SCAN_H
#define BASE_JSON_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

struct json_limits {
    uint32_t depth_max;  /* nested arrays and objects; at most JSON_DEPTH_LIMIT */
    uint32_t values_max; /* values of any kind, keys not counted */
    uint32_t keys_max;   /* keys in one object */
    uint32_t number_max; /* bytes of one number */
    bool large_objects;  /* keys beyond the table are counted and not compared */
};

enum { JSON_DEPTH_LIMIT = 64 };

extern const struct json_limits json_limits_default; /* 64, 1 Mi, 1024, 64 */

/* Why a text was refused, for the `code` of an error object. */
enum json_fault {
    JSON_OK,
    JSON_SYNTAX,          /* "invalid_json" */
    JSON_UTF8,            /* "invalid_utf8" */
    JSON_TOO_DEEP,        /* "json_too_deep" */
    JSON_TOO_MANY_VALUES, /* "json_too_many_values" */
    JSON_TOO_MANY_KEYS,   /* "json_too_many_keys" */
    JSON_DUPLICATE_KEY,   /* "duplicate_key" */
    JSON_NUL,             /* "nul_in_string" */
    JSON_NUMBER,          /* "number_out_of_range" */
};

/* False with st BAD_INPUT (or TOO_LARGE for a limit) and *fault set. */
bool json_scan(const char *text, size_t n, const struct json_limits *limits, enum json_fault *fault,
               struct status *st) MUST_CHECK;
const char *json_fault_code(enum json_fault fault);

/* Valid UTF-8 (RFC 3629: no overlong forms, no surrogates, at most U+10FFFF)? */
bool utf8_valid(const char *s, size_t n);

/* Length in bytes of the longest prefix of s that does not end inside a character that
 * more bytes could complete; n - result is 0 to 3. */
size_t utf8_complete(const char *s, size_t n);

#endif
