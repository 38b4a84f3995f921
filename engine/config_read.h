/* config_read.h - the numbers of a model, from GGUF metadata or from config.json.
 *
 * Both read the same table of the family (struct config_rule) by the key they know, and both
 * end in config_finish(), so that a model is the same whichever file it came in.
 *
 * Thread: any; no state. */
#ifndef ENGINE_CONFIG_READ_H
#define ENGINE_CONFIG_READ_H

#include "engine/model.h"

struct cJSON;

bool config_read_gguf(const struct gguf *g, const struct arch **arch, struct model_config *cfg,
                      struct status *st) MUST_CHECK;
bool config_read_hf(const struct cJSON *config, const struct arch **arch, struct model_config *cfg,
                    struct status *st) MUST_CHECK;

/* Every field as it is when no key is there. */
void config_init(struct model_config *cfg, const struct arch *arch);
/* Which layers are local where no key lists them: once the fields are read. */
void config_fill_local(struct model_config *cfg);
/* Puts a value in its field, or refuses it by its key. */
bool config_store(struct model_config *cfg, const struct config_rule *rule, const char *key,
                  double v, struct status *st) MUST_CHECK;
/* Derives what no key gave, and checks that the numbers fit each other. */
bool config_finish(struct model_config *cfg, const struct arch *arch, struct status *st) MUST_CHECK;

#endif
