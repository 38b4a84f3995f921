/* routes.c - every path of the daemon, and what may come with it. */
#include "server/api.h"

#define BODY_MAX ((size_t)8 << 20) /* option body-max can only lower it */

const struct route routes[] = {
    {"POST", "/v1/completions", ROUTE_KEY, BODY_MAX, api_completions},
    {"POST", "/v1/chat/completions", ROUTE_KEY, BODY_MAX, api_chat},
    {"GET", "/v1/models", ROUTE_KEY, 0, api_models},
    {"GET", "/v1/models/*", ROUTE_KEY, 0, api_model},
    {"POST", "/tokenize", ROUTE_KEY, BODY_MAX, api_tokenize},
    {"POST", "/detokenize", ROUTE_KEY, BODY_MAX, api_detokenize},
    {"GET", "/livez", ROUTE_OPEN, 0, api_livez},
    {"GET", "/readyz", ROUTE_OPEN, 0, api_readyz},
    {"GET", "/health", ROUTE_OPEN, 0, api_health},
    {"GET", "/version", ROUTE_OPEN, 0, api_version},
    {"GET", "/metrics", ROUTE_OPEN, 0, api_metrics},
    {NULL, NULL, ROUTE_KEY, 0, NULL},
};
