//go:build unix

package sqlite

import (
	"fmt"
	"io"
	"os"
	"syscall"
)

// The bytes on which an SQLite connection holds a shared lock as long as it has a file in WAL mode open (SQLite's
// os.h, SHARED_FIRST and SHARED_SIZE).
const sharedFirst, sharedSize = 0x40000000 + 2, 510

// holder describes another process that has a file open, or returns "". This process must not have the file open: the
// system drops all of a process's locks on a file when the process closes the file once.
func holder(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	lock := syscall.Flock_t{Type: syscall.F_WRLCK, Whence: io.SeekStart, Start: sharedFirst, Len: sharedSize}
	if err := syscall.FcntlFlock(f.Fd(), syscall.F_GETLK, &lock); err != nil {
		return "", fmt.Errorf("%s: look for its users: %w", file, err)
	}
	if lock.Type == syscall.F_UNLCK {
		return "", nil
	}
	return fmt.Sprintf("process %d has %s open", lock.Pid, file), nil
}
