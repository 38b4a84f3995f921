/* archs.c - for which devices a module has code. */
#include "kernels/cuda/archs.h"

#include <stdlib.h>

static bool runs(int of_code, bool alone, int cc)
{
    return of_code == cc || (!alone && of_code / 10 == cc / 10 && of_code < cc);
}

bool archs_have(const char *list, int cc)
{
    for (const char *at = list; *at;) {
        char *end;
        const long arch = strtol(at, &end, 10);
        if (end == at) {
            at++;
            continue;
        }
        if (runs((int)arch, *end == 'a', cc))
            return true;
        at = end;
    }
    return false;
}
