#include "store/status.h"

const char *
writers_status_name(enum writers_status s)
{
	switch (s) {
	case WRITERS_CONNECTING:
		return "connecting";
	case WRITERS_OK:
		return "ok";
	case WRITERS_UNAVAILABLE:
		return "unavailable";
	case WRITERS_HELD:
		return "held";
	}
	return "unknown";
}
