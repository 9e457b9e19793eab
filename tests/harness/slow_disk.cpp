// A library to preload into a daemon. While the file that $HOLD_SYNC names exists, a call that
// writes a file to the disk does not return; then the file "$HOLD_SYNC.held" exists as well.

#include <cstdlib>
#include <fcntl.h>
#include <string>
#include <sys/syscall.h>
#include <unistd.h>

static int held(long call, int descriptor) {
    const char *hold = getenv("HOLD_SYNC");
    if (hold != nullptr && access(hold, F_OK) == 0) {
        std::string mark = std::string(hold) + ".held";
        close(open(mark.c_str(), O_CREAT | O_WRONLY, 0600));
        while (access(hold, F_OK) == 0) {
            usleep(1000);
        }
        unlink(mark.c_str());
    }
    return static_cast<int>(syscall(call, descriptor));
}

extern "C" int fsync(int descriptor) { return held(SYS_fsync, descriptor); }
extern "C" int fdatasync(int descriptor) { return held(SYS_fdatasync, descriptor); }
