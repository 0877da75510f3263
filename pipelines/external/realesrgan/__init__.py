"""Real-ESRGAN x4plus: blind super-resolution by one RRDB network (Wang et al., ICCVW 2021)."""
