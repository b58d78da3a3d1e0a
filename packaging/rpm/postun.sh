if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    # 1: upgrade. A reload runs the new program.
    [ "$1" -eq 0 ] || systemctl try-reload-or-restart manyhands-serve.service manyhands-volunteer.service
fi
