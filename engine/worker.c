/* worker.c - the engine process: signals, descriptors, and then the link until it ends. */
#include <signal.h>
#include <sys/prctl.h>

#include "engine/engine_int.h"
#include "engine/link.h"

int engine_worker_run(const struct worker_backend *backend)
{
    /* The front's death is this process's end (link_work looks whether it came before this line);
     * signals meant for the front's terminal are not. */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGINT, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    const struct link_fds fds = {
        .shm = ENGINE_FD_SHM, .step = ENGINE_FD_STEP, .result = ENGINE_FD_RESULT};
    return link_work(&fds, backend, NULL) ? 0 : ENGINE_EXIT_FAILED;
}
