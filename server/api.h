/* api.h - the OpenAI surface: one handler for each route, and what they share.
 *
 * A handler of a generation copies the body and hands it to a prep thread, which scans
 * and parses the JSON, checks every field it knows (unknown fields are ignored; known
 * but unsupported ones are refused by name), renders and tokenizes.  Back in the loop
 * thread the requests go to the scheduler, and news of them become the answer.
 *
 * Thread: the loop thread. */
#ifndef SERVER_API_H
#define SERVER_API_H

#include "server/http.h"
#include "server/server.h"

void api_completions(struct exchange *x, struct server *sv);
void api_chat(struct exchange *x, struct server *sv);
void api_models(struct exchange *x, struct server *sv);  /* GET /v1/models */
void api_model(struct exchange *x, struct server *sv);   /* GET /v1/models/{id} */
void api_tokenize(struct exchange *x, struct server *sv);
void api_detokenize(struct exchange *x, struct server *sv);

/* The loop calls this when scheduler_news_fd is readable: drains the news and wakes the calls
 * they belong to (request.owner). */
void api_news(struct server *sv);

/* health.c, metrics.c */
void api_livez(struct exchange *x, struct server *sv);
void api_readyz(struct exchange *x, struct server *sv);
void api_health(struct exchange *x, struct server *sv);
void api_version(struct exchange *x, struct server *sv);
void api_metrics(struct exchange *x, struct server *sv);

#endif
