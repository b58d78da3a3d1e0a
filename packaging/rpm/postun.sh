if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    # 1: upgrade.
    [ "$1" -eq 0 ] || systemctl try-restart manyhands-serve.service manyhands-volunteer.service
fi
